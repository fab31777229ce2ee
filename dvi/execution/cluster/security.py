"""Whether what a cluster sends can be read on its way."""

from __future__ import annotations

import warnings

from distributed import Client
from distributed.comm.addressing import get_local_address_for, resolve_address

from dvi.errors import DviWarning


def warn_of_plain_text(client: Client) -> None:
    """Warn where a scheduler on another host is spoken to without TLS.

    Parameters
    ----------
    client : distributed.Client

    Warns
    -----
    DviWarning
        Python shows it once for each scheduler.
    """
    address = client.scheduler_info(n_workers=0)["address"]
    if address.startswith("tcp://") and not _is_here(address):
        warnings.warn(
            f"the Dask scheduler at {address} is on another host and does not use TLS: whoever is on the network "
            "between can read parameters and data, and run code on the workers; start the cluster and the client with "
            "security=distributed.Security(...)",
            DviWarning,
            stacklevel=2,
        )


def _is_here(address: str) -> bool:
    """Whether an address is one of this host: one that is, is reached from itself."""
    return bool(resolve_address(address).startswith(f"{get_local_address_for(address)}:"))
