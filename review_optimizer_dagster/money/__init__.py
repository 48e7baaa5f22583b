"""What money is counted by: dated prices, and the budgets that no run can overspend."""
