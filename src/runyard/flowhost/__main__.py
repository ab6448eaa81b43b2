import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["--warm"] and len(sys.argv) == 3:
        from runyard.flowhost.warm import serve

        sys.exit(serve(int(sys.argv[2])))
    from runyard.flowhost.host import main

    sys.exit(main(sys.argv[1:]))
