"""Starts a job that would take long, and cancels it."""

from flux_restful_client import FluxRestfulClient

cli = FluxRestfulClient()
job = cli.submit("sleep 1000")
print(cli.cancel(job["id"])["Message"])
for _ in cli.stream_output(job["id"]):
    pass
print(cli.jobs(job["id"])["result"])
