// A program for a C library that no other program of the lab has (musl).
#include <sys/socket.h>
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *one;
    char text[64];
    int failed = getaddrinfo(argv[1], 0, &hints, &all);
    if (failed) { fprintf(stderr, "%s\n", gai_strerror(failed)); return 1; }
    for (one = all; one; one = one->ai_next) {
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
