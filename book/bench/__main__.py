"""Entry point: threads are fixed before anything numerical is imported."""

from book.bench.single_thread import single_thread

single_thread()

from book.bench.run import main  # noqa: E402

main()
