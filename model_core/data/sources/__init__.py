"""What data sets are made from: texts, questions and pictures of released packages."""
