"""Makes machines and puts guests into them, for the command line, tests, tools and programs alike."""

from trapgate.build.guests import load_guest, plan_firmware, plan_guest, put_guest, restart
from trapgate.build.hearing import Hearing
from trapgate.build.machines import ENGINES, default_cpu, make_machine

__all__ = ["ENGINES", "Hearing", "default_cpu", "load_guest", "make_machine", "plan_firmware", "plan_guest", "put_guest", "restart"]
