"""The faults. Importing this package fills the list, in the order of the table."""

from tests.chaos.scenario import SCENARIOS

from tests.chaos.scenarios import redis_away  # isort: skip
from tests.chaos.scenarios import failover  # isort: skip
from tests.chaos.scenarios import clocks, service_gone  # isort: skip
from tests.chaos.scenarios import clients_away  # isort: skip
from tests.chaos.scenarios import last_look  # isort: skip
from tests.chaos.scenarios import clusters  # isort: skip
from tests.chaos.scenarios import many_processes  # isort: skip

__all__ = [
    "SCENARIOS",
    "clients_away",
    "clocks",
    "clusters",
    "failover",
    "last_look",
    "many_processes",
    "redis_away",
    "service_gone",
]
