from advantageflow.cli import main

main()
