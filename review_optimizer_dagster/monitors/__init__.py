"""What watches a service from day to day: response times, drift, service levels; pure, beside core."""
