"""Real measurements as readings: (sensor, time in ms, value as bytes), in order of time within a sensor."""

import csv
import datetime
import json
import pathlib

from harness import DATA

UTC = datetime.timezone.utc


def ms(date):
    return int(date.replace(tzinfo=UTC).timestamp() * 1000)


def rows(name):
    with open(DATA / name, newline="") as table:
        return list(csv.DictReader(table))


def weather():
    """Seattle's weather, day by day, 2012 to 2015: one reading a column."""
    readings = []
    for row in rows("seattle-weather.csv"):
        at = ms(datetime.datetime.strptime(row["date"].replace("-", "/"), "%Y/%m/%d"))
        for column in ("precipitation", "temp_max", "temp_min", "wind", "weather"):
            readings.append((f"weather/seattle/{column}", at, row[column].encode()))
    return readings


def stocks():
    """Monthly prices of five stocks, as JSON documents."""
    return [
        (f"stocks/{row['symbol']}", ms(datetime.datetime.strptime(row["date"], "%b %d %Y")), json.dumps(row).encode())
        for row in rows("stocks.csv")
    ]


def co2():
    """Weekly CO2 at Mauna Loa since 1958; weeks without a measurement have an empty value."""
    return [("co2/mauna-loa", ms(datetime.datetime.strptime(row["date"], "%Y%m%d")), row["co2"].encode()) for row in rows("co2.csv")]


def machine():
    """What this machine's own sensors say now: temperatures where there are any, load, memory, disks, network."""
    at = ms(datetime.datetime.now(UTC).replace(tzinfo=None))
    found = [("machine/load", at, pathlib.Path("/proc/loadavg").read_bytes().strip())]
    found += [(f"machine/memory/{name}", at, value.strip().encode()) for name, _, value in (line.partition(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())]
    found += [(f"machine/disk/{line.split()[2]}", at, line.strip().encode()) for line in pathlib.Path("/proc/diskstats").read_text().splitlines()]
    found += [(f"machine/net/{name.strip()}", at, value.strip().encode()) for name, _, value in (line.partition(":") for line in pathlib.Path("/proc/net/dev").read_text().splitlines()[2:])]
    for zone in pathlib.Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        found.append((f"machine/temperature/{zone.parent.name}", at, zone.read_bytes().strip()))
    return found


TABLES = {"weather": weather, "stocks": stocks, "co2": co2, "machine": machine}
