from gatewise.cli import main

raise SystemExit(main())
