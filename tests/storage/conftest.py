"""A real S3 service on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.service import Service, impatient, running


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with running() as found:
        yield found


@pytest.fixture
def s3(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The service, with its address and credentials in the environment, as users have them."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    impatient(monkeypatch)
    return service
