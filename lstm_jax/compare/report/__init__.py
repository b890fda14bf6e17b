"""The report of a comparison: a document of tables and pictures, in Markdown and as a page.

document.md   the template of the document, with all its text
document.py   the document from the template, and the folder of files
tables.py     the tables, and numbers in words
pictures.py   the pictures: bars and curves
benchmark.py  the table and the plot of `benchmark`
"""
