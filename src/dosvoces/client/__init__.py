"""
Typed clients: `Client`, and `AsyncClient` with the same methods; `post_call` for the contract's `/call`.

    with Client("http://127.0.0.1:8080", key="dv_test_…") as client:
        connection = client.create(first_number="+34600000011", second_number="+34960000022", email="ana@example.com")
        for event in client.events(connection.id):
            print(event.event)
"""

from dosvoces.client.asynchronous import AsyncClient
from dosvoces.client.contract import Answer, post_call, service_url
from dosvoces.client.problems import ApiError, InvalidRequest, NotNow, NotPermitted, NotThere, Unreachable
from dosvoces.client.synchronous import Client

__all__ = [
    "Answer",
    "ApiError",
    "AsyncClient",
    "Client",
    "InvalidRequest",
    "NotNow",
    "NotPermitted",
    "NotThere",
    "Unreachable",
    "post_call",
    "service_url",
]
