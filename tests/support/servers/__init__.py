"""Real servers, started by the tests themselves, and a proxy before them that makes faults."""
