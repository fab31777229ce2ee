from tests.storage.conftest import s3, service

__all__ = ["s3", "service"]
