"""What watches a service from day to day: response times, drift, service levels; all pure."""
