"""The theme of the page: colours, fonts and spacing. No font and no style is fetched from the internet."""

from gradio.themes import Base, Color, sizes

from rlhf_engine.files import ASSETS

CSS = ASSETS / "css" / "playground.css"

BLUE = Color("#eef6fb", "#d5e9f5", "#a9d2ec", "#74b8e0", "#3d9bd0", "#0f83c2", "#0072B2", "#005d92", "#064d78",
             "#0a3f61", "#072a42", name="policy")
INK = Color("#f7f8fa", "#eef0f3", "#dfe3e8", "#c5ccd5", "#929dab", "#667282", "#4a5564", "#354050", "#222b38",
            "#161d27", "#0f141c", name="ink")


class PlaygroundTheme(Base):
    """Calm surfaces and one accent colour, the blue of the policy."""

    def __init__(self):
        super().__init__(primary_hue=BLUE, secondary_hue=BLUE, neutral_hue=INK, radius_size=sizes.radius_md,
                         font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"),
                         font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono",
                                    "monospace"))
        super().set(
            body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
            body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
            block_background_fill="white", block_background_fill_dark="*neutral_900",
            block_border_width="1px", block_border_color="*neutral_200", block_border_color_dark="*neutral_800",
            border_color_primary="*neutral_200", border_color_primary_dark="*neutral_700",
            block_label_text_weight="500", block_title_text_weight="600", block_title_text_size="*text_sm",
            block_info_text_size="*text_xs", block_info_text_color="*neutral_500",
            block_info_text_color_dark="*neutral_400",
            input_background_fill="*neutral_50", input_background_fill_dark="*neutral_950", input_border_width="1px",
            input_border_color="*neutral_300", input_border_color_dark="*neutral_700",
            button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
            button_primary_background_fill_dark="*primary_600",
            button_primary_background_fill_hover_dark="*primary_500",
            button_primary_text_color="white", button_primary_text_color_dark="white",
            button_secondary_background_fill="*neutral_100", button_secondary_background_fill_hover="*neutral_200",
            button_secondary_background_fill_dark="*neutral_800",
            button_secondary_background_fill_hover_dark="*neutral_700",
            button_secondary_text_color="*neutral_800", button_secondary_text_color_dark="*neutral_100",
            button_cancel_background_fill="transparent", button_cancel_background_fill_hover="#D55E0018",
            button_cancel_background_fill_dark="transparent", button_cancel_background_fill_hover_dark="#D55E0030",
            button_cancel_text_color="#a84a00", button_cancel_text_color_dark="#f0965a",
            button_cancel_border_color="#D55E0066", button_cancel_border_color_dark="#D55E0099",
            button_border_width="1px", slider_color="*primary_600",
            checkbox_border_color="*neutral_400", checkbox_border_color_dark="*neutral_500",
            link_text_color="*primary_700", link_text_color_dark="*primary_300",
        )
