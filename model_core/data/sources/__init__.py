"""Raw material of data sets: texts, questions and pictures from released packages."""
