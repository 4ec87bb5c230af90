"""Pages of HTML: what is in them."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Elements of a page with their attributes, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def refers_outside(text):
    """Attributes of a page that would load something from another place."""
    for tag, attributes in Reader(text).elements:
        for name in ("src", "href", "action", "srcset", "data"):
            if not (attributes.get(name) or "#").startswith(("#", "data:")):
                yield tag, name, attributes[name]
