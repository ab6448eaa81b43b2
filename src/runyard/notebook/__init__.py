"""Jobs and training tasks from a notebook: start, watch live curves, stop, and find them again after a reload.

    from runyard.notebook import Task

    task = Task("k12cv", "digits", user="ada")       # a task that runs already is found again
    task.start({"trainer.num_epochs": 5})
    task.watch()                                     # until it has ended; interrupting the cell stops only the watching

Any other job: `Job.submit(command=["python", "train.py"])`, or `Job("name or id")`. Without IPython, `watch` writes
lines.
"""

from __future__ import annotations

from runyard.notebook.job import Job
from runyard.notebook.task import Task

__all__ = ["Job", "Task"]
