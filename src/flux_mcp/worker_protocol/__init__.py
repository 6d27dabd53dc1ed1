"""What an executor and a worker process send each other: frames and messages."""
