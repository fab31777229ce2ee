"""A parameter server and lane hosts as Dask actors. The only folder that imports distributed.

The client makes one :class:`LaneHost` on every worker and one :class:`ParameterServer`, gives lanes to hosts, and asks
the server for blocks of steps. The server asks the hosts directly, so no step is a task. Whatever is lost, the client
makes again from the last state it holds, and the same steps give the same bits.
"""

from dvi.execution.cluster.driver import ClusterDriver, active_client
from dvi.execution.cluster.host import LaneHost
from dvi.execution.cluster.security import warn_of_plain_text
from dvi.execution.cluster.server import ParameterServer

__all__ = ["ClusterDriver", "LaneHost", "ParameterServer", "active_client", "warn_of_plain_text"]
