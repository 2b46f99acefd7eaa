"""The parts of `study.py`: what is compared, how each agent learns, one run in a process of its own, the report."""
