"""What a comparison found, as a document of tables and pictures, in Markdown and as a page.

tables.py     numbers as words; the tables of `compare`
pictures.py   bars, curves, and the pictures of `compare`
document.py   the document in Markdown, and the folder of files
page.py       any such document as one page of HTML
benchmark.py  the table and the plot of `benchmark`
"""
