"""What was asked, and the plan without gaps that follows from it. Pure."""
