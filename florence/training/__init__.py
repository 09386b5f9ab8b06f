"""One model learns every task from the snapshot's labels: a step is some images and, for each, some of its tasks."""

from florence.training.corpus import Corpus, read_corpus
from florence.training.launch import Job, run
from florence.training.loop import Trained, train

__all__ = ["Corpus", "Job", "Trained", "read_corpus", "run", "train"]
