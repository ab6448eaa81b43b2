"""Submits a job, waits for its end, and shows what it wrote."""

from flux_restful_client import FluxRestfulClient

cli = FluxRestfulClient()
job = cli.submit("echo hello from a job")
print(f"{job['Message']} {job['id']}")
print("".join(cli.stream_output(job["id"])), end="")
print(cli.jobs(job["id"])["result"])
