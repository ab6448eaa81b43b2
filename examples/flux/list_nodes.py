"""Lists the nodes that are up."""

from flux_restful_client import FluxRestfulClient

print("\n".join(FluxRestfulClient().list_nodes()["nodes"]))
