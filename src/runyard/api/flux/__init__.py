"""The Flux door: the Flux RESTful API, at `/v1` and the unversioned paths of its document."""
