"""Training: one model learns every task from the snapshot's labels; a step draws some tasks of each of its images."""

from florence.training.dataset import TrainingDataset, read_dataset
from florence.training.launch import TrainingJob, run_training
from florence.training.loop import TrainingResult, train

__all__ = ["TrainingDataset", "TrainingJob", "TrainingResult", "read_dataset", "run_training", "train"]
