"""One self-contained HTML page over every run in a folder: no account, no server, no network.

`reading` turns run folders into plain dictionaries, `summary` says in words what they mean, `pictures` embeds images
within a byte budget, `page` renders the whole with `template.html`, `style.css`, `charts.js` and `app.js`.
"""
