"""Submits three jobs, of which the last has two tasks, and lists what there is."""

from flux_restful_client import FluxRestfulClient

cli = FluxRestfulClient()
commands = [("sleep 1", 1), ("whoami", 1), ("printenv FLUX_TASK_RANK", 2)]
ids = [cli.submit(command, num_tasks=tasks)["id"] for command, tasks in commands]
for number in ids:
    for _ in cli.stream_output(number):
        pass
for number in ids:
    job = cli.jobs(number)
    print(job["f58"], job["name"], job["ntasks"], job["result"], f"{job['runtime']:.1f} s")
