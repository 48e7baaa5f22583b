"""One exchange with a model's endpoint: what is asked, how it is sent, how its reply is read."""
