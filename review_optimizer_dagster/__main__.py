"""`python -m review_optimizer_dagster` is the command `review-optimizer`."""

from review_optimizer_dagster.cli import main

if __name__ == "__main__":
    main()
