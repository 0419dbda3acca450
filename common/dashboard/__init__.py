"""One self-contained HTML page over every run in a folder: no account, no server, no network.

`reading` turns run folders into plain data, `pictures` embeds images within a budget, `summary` says in words what the
numbers mean, `page` puts the data, `style.css`, Plotly and the scripts into `template.html`; the scripts draw the rest.
"""
