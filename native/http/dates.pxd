"""Dates as HTTP writes them: as spliceproxy/http1/dates.py."""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdio.h>
    #include <time.h>

    /* "Date: " and an IMF-fixdate (RFC 9110 section 5.6.7), with its CRLF and a NUL; strftime(3)
       would follow the locale. */
    static void write_date(char *to, size_t room, long long seconds) {
        static const char days[] = "SunMonTueWedThuFriSat";
        static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        time_t at = (time_t)seconds;
        struct tm t;
        gmtime_r(&at, &t);
        snprintf(to, room, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\\r\\n",
                 days + 3 * t.tm_wday, t.tm_mday, months + 3 * t.tm_mon, t.tm_year + 1900,
                 t.tm_hour, t.tm_min, t.tm_sec);
    }
    """
    void write_date(char *to, size_t room, long long seconds) noexcept nogil

cdef enum:
    DATE_SIZE = 37          # bytes of a line with a date, in the years 1000 to 9999

cdef struct Date:           # of now
    int64_t second          # Unix time for which `line` was made
    char line[64]


cdef inline const char *date_line(Date *date, int64_t second) noexcept nogil:
    """The line of a head that says when `second` is (Unix time), made once for each: DATE_SIZE
    bytes."""
    if second != date.second:
        date.second = second
        write_date(date.line, sizeof(date.line), second)
    return date.line
