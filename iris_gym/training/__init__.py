"""What happens over time: collecting, learning, the schedule of both, and checkpoints."""
