"""One model learns every task from the snapshot's labels: a step is some images and, for each, some of its tasks."""

from florence.training.corpus import Corpus, read_corpus
from florence.training.loop import Trained, train

__all__ = ["Corpus", "Trained", "read_corpus", "train"]
