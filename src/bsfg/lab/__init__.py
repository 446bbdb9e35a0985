"""Two whole zones on one machine, for trying, demonstrating and testing."""
