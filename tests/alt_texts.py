"""Alt texts as the web has them, labelled by hand: ones that describe a picture, and ones that do not. Every second is held back (see the test)."""

from __future__ import annotations

GOOD = (
    "a red car parked in front of a brick house", "Two dogs playing with a stick on the beach", "Black and white portrait of an old man with a beard",
    "A woman in a yellow raincoat crosses the street", "Bowl of tomato soup with basil leaves", "the Eiffel Tower at night, seen from the river",
    "Children's drawing of a house and a tree", "iPhone 12 lying on a wooden table", "A 1967 Ford Mustang at a car show", "Cat sleeping on a laptop keyboard.",
    "3 men in suits shaking hands", "Sunset over the Grand Canyon, Arizona", "man holding a sign that says STOP", "Barack Obama speaks at a podium in Berlin",
    "Close-up of a bee on a purple flower", "A plate of spaghetti, a glass of red wine and a basket of bread", "Map of the London Underground, 1933",
    "empty classroom with rows of desks and a green chalkboard", "Aerial view of a motorway interchange", "Small white dog wearing a Santa hat",
    "people waiting at a bus stop in the rain", "Graph of monthly rainfall from January to December", "An orange and a half-peeled banana on a blue plate",
    "The band U2 on stage in Dublin", "Close up: a spider's web covered in dew", "A traffic light showing red; behind it a church", "kitchen with white cupboards and a gas stove",
    "Firefighters spraying water onto a burning roof", "Boy (left) and girl (right) building a sandcastle", "snow-covered mountains under a clear sky",
    "A crowd of fans celebrates after the 2-1 win", "Queen Elizabeth II waves from a carriage", "Shelf full of old books", "the inside of a train carriage with blue seats",
    "A bottle of Coca-Cola next to a hamburger", "Passengers boarding a Boeing 747 at JFK", "Fresh bread for sale at a market stall in Paris",
    "A shop window with a sign reading 50% off", "Person typing on a keyboard, seen from above", "wooden bridge over a narrow stream in a forest",
    "A vase of tulips in morning light", "Goalkeeper dives to his left to stop a penalty", "Diagram of the water cycle with labels", "Horse-drawn carriage in Vienna's old town",
    "dog", "red bicycle", "Mount Fuji", "baby's feet", "A man reading The New York Times on a park bench", "Runner no. 42 crosses the finish line",
    "Street art of a blue whale on the wall of a parking garage in Lisbon, Portugal", "A pile of euro coins and a 20 euro note", "Café terrace in Montréal",
    "São Paulo skyline at dusk", "Two women laugh while cooking dinner together", "Old photograph of soldiers in a trench", "A stop sign half buried in snow",
    "shopping cart filled with vegetables in a supermarket aisle", "Woman buys apples at a farmers' market", "Screen of a laptop with lines of code, a coffee mug beside it",
    "A close-up of a button on a red coat", "Home team celebrates its title", "A user looks at a photo gallery on her phone", "Arrow painted on a road", "Cows, sheep and goats on a hill",
    "Portrait of the author", "the back of a bus", "A page of handwriting", "Test tube in a rack", "The next train arrives", "Boat, Lake Como, Italy", "Salad: lettuce, tomato, egg, olives, tuna",
    "\"Open\" sign on a door", "USA flag on the Moon", "A search dog at work", "A profile of a young woman against the light",
)  # fmt: skip
"""Texts that describe a picture."""

BAD = (
    "IMG_20190412_133742", "DSC00123", "screenshot 2021-03-04 at 10.12.13", "untitled-1", "image001", "photo3 final FINAL v2", "P1010023", "1024x768", "banner-top-left-2",
    "www.cheap-shoes.example", "https://cdn.example.net/a/b/c.jpg?width=200", "visit example.com for more", "#love #instagood #photooftheday #beach",
    "Sunset #travel #wanderlust #nofilter #goals", "Buy now! Free shipping on all orders over $50", "Add to cart", "Nike Air Max 90 Mens - BEST PRICE - Free Delivery",
    "$19.99", "SALE 50% OFF TODAY ONLY", "Click here to read more", "Click to enlarge", "read more »", "Royalty-free stock vector illustration", "© 2019 All rights reserved",
    "Getty Images / AFP", "CHEAP WATCHES | MENS WATCHES | LUXURY WATCHES | SALE", "wedding dress, cheap wedding dress, white, lace, bridal, 2019, buy, online, sale",
    "shoes,running,nike,men,blue,size 10,discount,free", "LED BULB E27 9W 806LM 2700K WARM WHITE A60", "SKU-48213-BLK-XL", "Model: XJ-900 / Part No. 55-1023-A", "&nbsp;&nbsp;",
    "<img src=x alt=photo>", "<p>Our team</p> &amp; friends", "[caption id=attachment_42 align=alignleft]", "{{ product.title }}", "summer%20sale%20hero%20image",
    "🔥🔥🔥 SALE 🔥🔥🔥", "❤️😍😍 omg ❤️❤️", "👉 link in bio 👈", "_____", "***", "n/a", "null", "undefined", "image", "photo", "placeholder", "no image available", "Image may contain: indoor",
    "logo", "thumbnail", "hero_image_desktop_2x", "Canon EOS 5D f/2.8 1/200s ISO 400", "4032 x 3024 pixels, 2.4 MB", "00000123", "a1b2c3d4e5f6", "file:///C:/Users/me/Desktop/x.png",
    "HOTEL SPA RESORT - BEST DEALS - BOOK ONLINE - 5 STARS - CHEAP", "follow us on facebook, twitter and instagram",
    "Featured image", "close button", "User profile picture", "Main menu", "Our solution", "Lorem ipsum dolor sit amet", "my avatar", "meme", "![front page](", "page-2.html", "Insert title here",
    "${item.name}", "Next »", "Some text", "Blog post thumbnail", "Q3 results",
)  # fmt: skip
"""Texts that do not."""
