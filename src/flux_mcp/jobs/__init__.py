"""The queue: jobs on disk, the one executor that runs them, the seam to the workers."""
