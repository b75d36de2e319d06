"""Main Street: a shop, a log-in and a plaza that survive `kill -9`. `scripts/run` starts it.

An App is its actor classes, who calls them, and the pages around them. The actors remember, the
pages hold nothing:

    catalogue.py  what is sold            accounts.py  who may log in
    stock.py      how much is left        sessions.py  who is behind a request
    cart.py       carts                   visit.py     one request's visitor, and their cart
    orders.py     what was bought         pages.py     forms and pages
    gifts.py      money that moves        memory.py    a look into the store
    plaza.py      the map, live
"""

from perdure import App

from .accounts import Account, Tries
from .cart import Cart
from .gifts import Wallet
from .memory import Starts
from .orders import Order
from .pages import site
from .plaza import Plaza
from .sessions import Session, identify
from .stock import Stock

ACTORS = (Cart, Stock, Order, Wallet, Account, Tries, Session, Plaza, Starts)

app = App(*ACTORS, identify=identify, mount=site)
site.state.perdure = app
