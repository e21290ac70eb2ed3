"""The fixed texts by which a changed model is detected. They hold no user's data, and are short, so that a check costs next to nothing.

Several languages and scripts, code, numbers and one sentence said in two ways: a new model moves at least some of them.
"""

from __future__ import annotations

TEXTS = (
    "The ferry leaves at six in the morning and returns before dark.",
    "Before it gets dark the boat is back; it goes out at six.",
    "A refund is paid within fourteen days of the goods arriving at our warehouse.",
    "Reset the password by holding the button for ten seconds until the light turns green.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)",
    "SELECT city, count(*) FROM orders WHERE paid GROUP BY city ORDER BY 2 DESC;",
    '{"error": "timeout", "retries": 3, "host": "db-7"}',
    "Le train de nuit arrive à Lyon avec vingt minutes de retard.",
    "Die Rechnung muss bis zum Ende des Monats bezahlt werden.",
    "La receta lleva dos huevos, harina, azúcar y una pizca de sal.",
    "会议改到星期四下午三点。",
    "この薬は食後に一日二回飲んでください。",
    "Погода завтра будет ясной, ветер слабый.",
    "المكتبة مغلقة يوم الجمعة.",
    "3.14159 2.71828 1.41421 0.57721",
    "no",
)
