"""What is expected of results, as Great Expectations suites, and what checks them."""
