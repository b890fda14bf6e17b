"""What a comparison found, as a document of tables and pictures, in Markdown and as a page.

document.md   the form of the document: all its words
document.py   the form filled, and the folder of files
tables.py     numbers as words, and the tables
pictures.py   bars and curves
page.py       any such document as one page of HTML, in the style of page.css
benchmark.py  the table and the plot of `benchmark`
"""
