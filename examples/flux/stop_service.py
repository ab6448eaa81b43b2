"""Stops the server. Its jobs live on, unless [doors.flux] on_stop says otherwise."""

from flux_restful_client import FluxRestfulClient

print(FluxRestfulClient().stop_service()["Message"])
