"""The members' side of the TANGO protocol: a program or a Python function that a project manager starts and stops.

    from runyard.member import Task, member

    @member("bms", port=8081)
    def select(task: Task) -> None:
        (task.folder / "basemodel.yaml").write_text("name: mlp\\n")

    select.run()

`runyard member --name bms --port 8081 -- python select.py` makes one of any program. Source: the seed document
tango-rest-api, spec/tango.md 1.
"""

from runyard.member.sdk import Member, member
from runyard.member.service import Options, Reports
from runyard.member.task import Stopped, Task

__all__ = ["Member", "Options", "Reports", "Stopped", "Task", "member"]
