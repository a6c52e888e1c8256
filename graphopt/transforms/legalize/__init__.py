"""What makes a model acceptable to a target without changing its meaning."""
