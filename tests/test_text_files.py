"""Text files of other people: encodings, and what beside a picture is no caption."""

from __future__ import annotations

import pytest

from florence.errors import DataError
from florence.text_files import decode_text, explain_non_caption

CAPTIONS = [
    "a cat on a mat",
    "1girl, solo, smile, red hair",
    "Two dogs and 3 cats in 2012.",
    "Ein Hund\nauf der Wiese\n",
    "猫が座っている",
    "قطة على سجادة",
    "A clock that shows 12, 3, 6 and 9 in the old town of Bern",
    "Boeing 737-800 at gate 12",
    "🙂",
    "file.jpg of a cat",
    "<3 this picture",
    "[untitled]",
    "see img_1.jpg",
]
LABELS = {
    "yolo": "0 0.5 0.5 0.4 0.6\n1 .25 .5 .1 .2",
    "yolo with confidence": "0 0.5 0.5 0.4 0.6 0.93",
    "yolo segment": "3 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6",
    "yolo in exponents": "0 5e-01 5.0E-1 1e-3 2e-05",
    "one class number": "7",
    "comma separated": "12,34,56,78\n1,2,3,4",
    "BBox-Label-Tool": "2\n10 20 30 40\n50 60 70 80",
    "mAP": "tvmonitor 471 13 1000 400\nbook 0.44 439 157 556 241",
    "DOTA": "imagesource:GoogleEarth\ngsd:0.146\n937 913 921 912 923 874 940 875 small-vehicle 0",
    "ICDAR": "377,117,463,117,465,130,378,130,Genaxis Theatre of the whole wide world\n1,2,3,4,5,6,7,8,###",
    "KITTI": "Pedestrian 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01",
    "JSON": '{"shapes": [], "version": "5.0"}',
    "XML": "<annotation><folder>x</folder></annotation>",
    "list of pictures": "images/train/a.jpg\nimages/train/b c.png",
    "one picture": "/data/a.jpg",
    "nothing": " \n",
}


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_are_captions(text):
    assert explain_non_caption(text, "a.txt") == ""


@pytest.mark.parametrize("name", LABELS)
def test_labels_and_lists_are_no_captions(name):
    assert explain_non_caption(LABELS[name], "a.txt")


@pytest.mark.parametrize("name", ["classes.txt", "x/Obj.names", "train.txt", "_darknet.labels"])
def test_lists_of_the_folder_are_no_captions(name):
    assert "folder" in explain_non_caption("cat\ndog\n", name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_of_unicode_are_known(encoding):
    text = "name;text\na.jpg;Müller’s Hund läuft\nb.jpg;猫 🙂\n"
    assert decode_text(text.encode(encoding)) == text


def test_other_encodings_have_to_be_named():
    data = "Müller läuft".encode("cp1252")
    with pytest.raises(DataError, match="byte 1 is not UTF-8"):
        decode_text(data)
    assert decode_text(data, "cp1252") == "Müller läuft"
    with pytest.raises(DataError, match="'latein' is no encoding"):
        decode_text(data, "latein")
    assert decode_text("é".encode("utf-8-sig"), "cp1252") == "é"
    assert decode_text(b"") == ""
