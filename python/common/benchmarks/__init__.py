"""What `make bench` measures: workloads, the trainings that are compared, and how they are timed."""
