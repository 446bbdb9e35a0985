"""Two zones on one machine, for trying, testing and showing (contract, section 6)."""
