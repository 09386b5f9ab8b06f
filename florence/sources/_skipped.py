"""Files of a folder that are no pictures of its owner: thumbnails, hidden files, what Florence itself has written."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection

from florence.store import EXPORT_NOTE

SYSTEM = "thumbnails and files of the system"
HIDDEN = "hidden files"
OWN = "of a workspace of Florence"
EXPORTED = "an export of Florence"
INSTALLED = "of installed programs"
ICLOUD = "that are in iCloud alone (have them downloaded)"
DEAD_LINK = "symbolic links to nothing"
NO_FILE = "pipes, sockets and devices"
NOT_PERMITTED = "that this user may not read"
_SYSTEM_FOLDERS = frozenset(
    "@eadir .@__thumb .thumbnails .thumbs thumbnails.lrdata .xvpics __macosx .appledouble .spotlight-v100 .fseventsd "
    ".trash .trashes $recycle.bin #recycle @recycle #snapshot @tmp .temporaryitems lost+found "
    ".picasaoriginals .@upload_cache".split()
) | {"system volume information"}
_SYSTEM_FILES = frozenset("thumbs.db ehthumbs.db desktop.ini .ds_store .picasa.ini picasa.ini .localized".split())
_SYSTEM_STARTS = ("._", "synofile_thumb_", "synophoto_thumb_", ".trashed-", ".pending-")
_SYSTEM_ENDINGS = (".thm", ".lrprev", ".thumb")
_OUTPUTS = frozenset(
    ".florence .dvc .git build mlruns mlartifacts model pretrain metrics scores plots expectations".split()
)
"""Folders of a workspace that Florence, DVC, MLflow and git write."""
_OWN_FILES = frozenset("params.yaml dvc.yaml dvc.lock data.dvc code.json .gitignore .dvcignore".split())
_DATA_ENDINGS = (".parquet", ".json", ".md")


def explain_folder(name: str) -> str:
    """Return why nothing below a folder of this name is read; empty if it is."""
    lowered = name.lower()
    if lowered in _SYSTEM_FOLDERS or lowered.endswith(".lrdata"):
        return SYSTEM
    if name.startswith("."):
        return HIDDEN
    return INSTALLED if lowered in ("node_modules", "site-packages") else ""


def explain_file(name: str) -> str:
    """Return why a file of this name is not read; empty if it may be."""
    lowered = name.lower()
    if lowered in _SYSTEM_FILES or lowered.startswith(_SYSTEM_STARTS) or lowered.endswith(_SYSTEM_ENDINGS):
        return SYSTEM
    if name.startswith(".") and lowered.endswith(".icloud"):
        return ICLOUD
    return HIDDEN if name.startswith(".") else ""


def explain_path(name: str) -> str:
    """Return why a file at this path below a source is not read, by its folders and its name; empty if it may be."""
    *folders, base = name.split("/")
    return next(filter(None, (*map(explain_folder, folders), explain_file(base))), "")


def explain_content(files: Collection[str], folders: Collection[str]) -> str:
    """Return why nothing below a folder with these files and folders in it is read; empty if it is."""
    if EXPORT_NOTE in files:
        return EXPORTED
    return INSTALLED if "pyvenv.cfg" in files or "conda-meta" in folders else ""


def is_workspace(folder: str, files: Collection[str], folders: Collection[str]) -> bool:
    """Return whether a local folder is a workspace of Florence."""
    if "params.yaml" not in files:
        return False
    if ".florence" in folders:
        return True
    try:
        with open(os.path.join(folder, "dvc.yaml"), encoding="utf-8", errors="replace") as file:
            return "florence" in file.read(1 << 16)
    except OSError:
        return False


def explain_output(path: str) -> str:
    """Return why a file or folder at ``path`` below a workspace is not read; empty if it may be.

    What a workspace's ``data/`` holds are tables; a picture in it is somebody else's.
    """
    first, _, rest = path.partition("/")
    is_own = (first in _OUTPUTS) or (not rest and first in _OWN_FILES)
    is_own = is_own or (first == "data" and bool(rest) and posixpath.splitext(rest)[1] in _DATA_ENDINGS)
    return OWN if is_own else ""
