"""Files and folders that hold an array: their headers, and their numbers, mapped or decoded."""
