"""Submits a job with a user and a token: python submit_job_auth.py USER TOKEN"""

import sys

from flux_restful_client import FluxRestfulClient

cli = FluxRestfulClient()
cli.set_basic_auth(user=sys.argv[1], token=sys.argv[2])
job = cli.submit("whoami", runtime=60)
print("".join(cli.stream_output(job["id"])), end="")
print(f"{cli.jobs(job['id'])['user']}: {cli.jobs(job['id'])['result']}")
